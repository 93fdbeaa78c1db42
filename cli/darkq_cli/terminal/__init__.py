"""What a person sees and types: output, messages, options, interrupts."""
