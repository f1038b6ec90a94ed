"""The training that `trajmon demo` watches: a small ResNet on handwritten digits."""
