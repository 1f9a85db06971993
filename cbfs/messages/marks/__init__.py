"""What is noted of single messages beside their records: in which sessions they have come whose
sender is not proven, and what mail programs keep of them."""
