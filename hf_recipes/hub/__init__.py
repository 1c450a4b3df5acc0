"""The Hub: dataset configs, cards and Spaces, published and pulled."""
