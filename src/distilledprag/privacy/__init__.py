"""What can be learned about the documents from what is sent: attacks, to be measured and reported."""
