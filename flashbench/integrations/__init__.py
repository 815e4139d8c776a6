"""flashbench's attention in other libraries: PyTorch, Hugging Face transformers, neuralforecast."""
