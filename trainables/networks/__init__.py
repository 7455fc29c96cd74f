"""Policy networks shared by imitation, PPO and export, and the checkpoint that passes between them."""
