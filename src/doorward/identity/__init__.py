"""Who is asking: principals, access tokens and the keys behind them."""
