"""The judge: trained networks under many attacks on test images, without training anything."""
