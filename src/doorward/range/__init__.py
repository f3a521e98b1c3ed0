"""Labs that attack Doorward with a control off, and again with it on."""
