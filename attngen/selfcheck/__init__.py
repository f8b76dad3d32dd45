"""Every build checks itself: a plan is executed on random rows and compared with the formula that it came from."""
