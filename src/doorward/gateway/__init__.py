"""The flow of one call from the client's door to the server's and back."""
