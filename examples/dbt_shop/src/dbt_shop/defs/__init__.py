"""What is loaded, what is modelled, what is reported."""
