"""The stand-ins: drawn faces and the embedded trunk."""
