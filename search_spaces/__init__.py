"""What a model may be: pretrained backbones and families of small nets. Knows no data, no history, no engine."""
