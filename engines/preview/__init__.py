"""The preview engine: animates the portrait's own pixels on the CPU, faster than real time."""
