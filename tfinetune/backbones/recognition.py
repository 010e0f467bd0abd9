"""Recognize a published architecture by the names of its layers.

Names say which program built a model, not how its pixels were scaled in training. What is found
here is what the architecture was published with; `input_range` weighs it against the evidence.
"""

import keras

from tfinetune.backbones.input_scaling import InputScaling

# (family, preset of its published weights, layers that together only it has). The names are those
# of keras.applications since Keras 2.0, with "/" read as "_", and all from the first half of the
# model, so that a cut one is recognized too.
_LANDMARKS = (
    ("MobileNet", "tf", ("conv1", "conv_dw_1", "conv_pw_1", "conv_pw_2")),
    ("MobileNetV2", "tf", ("bn_Conv1", "expanded_conv_depthwise", "block_1_expand")),
    ("ResNetV2", "tf", ("conv1_conv", "conv2_block1_preact_bn", "conv2_block1_3_conv")),
    ("ResNet", "caffe", ("conv1_bn", "conv2_block1_1_conv", "conv2_block1_out")),
    ("ResNet", "caffe", ("bn_conv1", "res2a_branch2a", "bn2a_branch2a")),
    ("DenseNet", "torch", ("conv1_conv", "conv2_block1_0_bn", "pool2_conv")),
    ("VGG", "caffe", ("block1_conv1", "block1_conv2", "block2_conv2", "block3_conv3")),
    ("Xception", "tf", ("block1_conv1_bn", "block2_sepconv1", "block2_sepconv2_bn")),
    ("InceptionV3", "tf", ("mixed0", "mixed1", "mixed2", "mixed3")),
    ("InceptionResNetV2", "tf", ("mixed_5b", "block35_1_conv", "mixed_6a")),
    ("NASNet", "tf", ("stem_conv1", "stem_bn1", "reduction_conv_1_stem_1")),
    # Of the weights in github.com/rcmalli/keras-squeezenet.
    ("SqueezeNet", "caffe", ("fire2_squeeze1x1", "fire2_expand3x3", "fire5_expand3x3")),
)


def published_scaling(model: keras.Model) -> InputScaling | None:
    """Return what the architecture of a flat model was published with, or None if unknown."""
    names = {operation.name.replace("/", "_") for operation in model.operations}
    for family, preset, landmarks in _LANDMARKS:
        if names.issuperset(landmarks):
            return InputScaling.preset(preset, origin=f"the published weights of {family}")
    return None
