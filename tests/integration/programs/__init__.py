"""Programs as applications are written, one file per capability, each run with every client library; `scene.Stage` plays them on a real cluster."""
