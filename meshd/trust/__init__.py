"""Who is who, who belongs, and how that is proven. Pure, but for the one key file."""
