"""What a network says of images, and what is checked of both."""
