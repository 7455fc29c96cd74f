"""What Ray Serve hosts. It loads exported bundles only and never imports torch or RLlib."""
