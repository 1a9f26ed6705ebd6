"""Dreams in a browser: the world model and the controller as graphs, and the page that evaluates them."""
