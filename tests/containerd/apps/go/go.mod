module outcrop.example/go-app

go 1.19

// Versions with known vulnerabilities, on purpose.
require (
	golang.org/x/net v0.7.0
	gopkg.in/yaml.v3 v3.0.0
)

require golang.org/x/text v0.7.0 // indirect
