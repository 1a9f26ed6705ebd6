"""Dreams in a browser: graphs of the world model and the controller, and the page that evaluates them."""
