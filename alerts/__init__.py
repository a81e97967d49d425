"""What Vigil does about what it concludes: alerts, their life, their words. Pure."""
