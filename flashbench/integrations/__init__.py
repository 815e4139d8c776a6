"""flashbench inside other libraries: PyTorch, Hugging Face transformers, neuralforecast's models."""
