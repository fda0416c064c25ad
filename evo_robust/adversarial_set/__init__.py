"""RoCo-NAS's adversarial images: made once, cached, checked."""
