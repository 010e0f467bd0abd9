"""The only code that opens foreign model files: checked first, built second, nothing executed."""
