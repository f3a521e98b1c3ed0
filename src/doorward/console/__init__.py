"""The admin plane: status page, API and metrics, apart from the data plane."""
