"""RLlib PPO on batched tasks: the network with its normaliser inside, lean connectors, warm start, policy checkpoints."""
