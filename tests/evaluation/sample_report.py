"""A report of a run that never happened, with names no folder should have but some folder will."""

from dataclasses import replace

import numpy as np
from scipy.special import softmax

from tfinetune.evaluation import Mistake, ReportData, classification_metrics

HOSTILE = "<script>alert('x')</script>"
CLASS_NAMES = (
    "cardboard",
    HOSTILE,
    "$\\frac{1$ & “glass”",
    "紙とプラスチック 😀",
    "زجاج وورق",
    "a_very_long_class_name_" + "that_never_ends_" * 8,
)


def predictions(class_names, *, count=150, skill=2.0, seed=0):
    """Labels [n] and probabilities [n, C] of a classifier that is right most of the time."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, len(class_names), count)
    logits = generator.normal(size=(count, len(class_names)))
    logits[np.arange(count), labels] += skill
    return labels, softmax(logits, axis=1)


def make_report(class_names=CLASS_NAMES, *, count=150, skill=2.0, **changes) -> ReportData:
    """A full report on `class_names`; `changes` replace fields."""
    labels, probabilities = predictions(class_names, count=count, skill=skill)
    wrong = [i for i in range(count) if probabilities[i].argmax() != labels[i]][:9]
    generator = np.random.default_rng(1)
    noise = generator.integers(0, 256, (len(wrong), 12, 16, 3)).astype(np.uint8)
    history = [
        {
            "phase": "head" if epoch <= 3 else "fine_tuning",
            "epoch": epoch,
            "loss": 1.4 / epoch,
            "accuracy": 0.5 + epoch * 0.04,
            "val_loss": 1.2 / epoch + 0.2,
            "val_accuracy": 0.55 + epoch * 0.025,
            "seconds": 7.25,
            "learning_rate": 3e-4 / epoch,
        }
        for epoch in range(1, 11)
    ]
    groups = [
        ("stem", 3, 432),
        ("stage_1", 9, 12_000),
        ("stage_5", 30, 1_900_000),
        ("head", 1, 7686),
    ]
    report = ReportData(
        title="trash, by EfficientNet",
        created="2025-01-31",
        class_names=class_names,
        counts={
            split: {index: factor * (index + 1) for index in range(len(class_names))}
            for split, factor in (("train", 35), ("validation", 7), ("test", 7))
        },
        quarantine=[
            {"path": f"glass/broken_{i}.jpg", "reason": "the file ends too early"}
            for i in range(40)
        ],
        stray_files=3,
        stray_examples=["notes.txt", "glass/Thumbs.db"],
        duplicates=[
            {
                "kind": "near",
                "ids": ["glass/1.jpg", "paper/2.jpg"],
                "splits": ["train"],
                "conflicting_labels": True,
            }
        ],
        notes=["The largest class has 6 times the images of the smallest: classes are weighted."],
        test=classification_metrics(labels, probabilities, class_names),
        validation=classification_metrics(
            *predictions(class_names, count=count, skill=skill, seed=5), class_names
        ),
        calibration={"temperature": 1.42, "ece_before": 0.093, "ece_after": 0.041, "split": "test"},
        mistakes=[
            Mistake(
                np.kron(image, np.ones((12, 12, 1), np.uint8)),
                f"{class_names[labels[i]]}/{i:04}.jpg",
                class_names[labels[i]],
                class_names[probabilities[i].argmax()],
                float(probabilities[i].max()),
            )
            for i, image in zip(wrong, noise, strict=True)
        ],
        candidates=[
            {"name": "linear probe", "accuracy": 0.762, "loss": 0.7012, "shipped": False},
            {"name": "fine-tuned model", "accuracy": 0.8, "loss": 0.5832, "shipped": True},
        ],
        shipped_because="The fine-tuned model ships: 80.0% on validation, against 76.2%.",
        history=history,
        probe_accuracy=0.762,
        plan=[
            {
                "phase": phase,
                "group": group,
                "layers": layers,
                "parameters": parameters,
                "trainable": group == "head" or (phase == "fine_tuning" and group != "stem"),
                "learning_rate": 3e-4 if group == "head" else None,
            }
            for phase in ("head", "fine_tuning")
            for group, layers, parameters in groups
        ],
        phase_seconds={"reading images": 4.4, "head": 12.0, "fine_tuning": 66.3},
        total_seconds=90.1,
        peak_memory_bytes=2_140_000_000,
        device="CPU (2 cores)",
        versions={"tfinetune": "0.1.0", "keras": "3.15.1", "tensorflow": "2.21.0"},
        backbone={
            "source": "mobilenet_v2_0.35_224_notop.keras",
            "kind": "Keras 3 file",
            "sha256": "0123456789abcdef" * 4,
            "parameters": 410_208,
            "image_size": (160, 160),
            "input_range": "[-1, 1]",
            "decided_by": "statistics of its first BatchNormalization",
            "warnings": ["It was trained at 224 × 224 pixels and runs at 160 × 160 here."],
            "notes": ["The classification top was cut after out_relu."],
        },
        parity=[
            {
                "route": route,
                "signature": signature,
                "examples": 32,
                "max_difference": 1.2e-6,
                "tolerance": 1e-4,
            }
            for route in ("tf2", "v1")
            for signature in ("serving_default", "serving_bytes")
        ],
        comparison=[
            {"name": "fine-tuned", "accuracy": 0.8, "interval": [0.729, 0.856], "seconds": 90.1},
            {"name": "from scratch", "accuracy": 0.41, "interval": [0.334, 0.49], "seconds": 88.0},
        ],
        recipe="backbone: mobilenet_v2\nseed: 0\naugmentation: light  # <none>\n",
    )
    return replace(report, **changes)
