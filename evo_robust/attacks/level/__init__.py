"""Black-box attacks, which see only logits."""
