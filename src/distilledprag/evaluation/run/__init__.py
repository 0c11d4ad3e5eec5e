"""`dprag evaluate RECIPE`: recipe -> questions with passages -> one record per question and method -> summary."""
