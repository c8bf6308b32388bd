"""Speed, measured: real processes, the real Envoy configuration, TLS and everything on."""
