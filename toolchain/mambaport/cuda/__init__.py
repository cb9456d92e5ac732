"""What is known of CUDA before anything is built: this machine's, the target's, and the torch in it."""
