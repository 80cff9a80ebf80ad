"""InputVerifier: a component that checks what a job was given before anything is computed."""
