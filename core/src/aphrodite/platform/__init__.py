"""What a device is: the protocols a plugin implements, and the plain torch device they default to."""
