"""One way for a picture to become a tensor: decode, input contract, preparation."""
