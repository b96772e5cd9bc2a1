"""Parts and the skeleton: everything an isotropic patch model is built from."""
