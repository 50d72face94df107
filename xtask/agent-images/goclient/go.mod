module agentsandbox.dev/goclient

go 1.24
