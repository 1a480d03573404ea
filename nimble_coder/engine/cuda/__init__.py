"""The step on NVIDIA GPUs: kernels, the plan of a step as one block of integers, and the model in CUDA graphs."""
