"""Reference motions: clips in AWD and DeepMimic form, our own gait generators, retargeting, and playback in physics."""
