"""Chat models of other frameworks that ask a gateway. Each needs its extra; nothing else of this package is loaded."""
