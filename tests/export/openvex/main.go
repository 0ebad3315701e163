// Command openvex reads OpenVEX documents with the project's own library, and fails unless every statement is valid.
package main

import (
	"fmt"
	"os"

	"github.com/openvex/go-vex/pkg/vex"
)

func main() {
	for _, path := range os.Args[1:] {
		document, err := vex.Load(path)
		if err != nil {
			fail(path, err)
		}
		if document.ID == "" || document.Author == "" || document.Timestamp == nil {
			fail(path, fmt.Errorf("the document has no ID, author or timestamp"))
		}
		for number, statement := range document.Statements {
			if err := statement.Validate(); err != nil {
				fail(path, fmt.Errorf("statement %d: %w", number, err))
			}
			// A consumer finds the statement by the image and the package in it.
			for _, product := range statement.Products {
				for _, component := range product.Subcomponents {
					if len(document.Matches(string(statement.Vulnerability.Name), product.ID, []string{component.ID})) == 0 {
						fail(path, fmt.Errorf("statement %d is not found by %s and %s", number, product.ID, component.ID))
					}
				}
			}
		}
		fmt.Printf("%s: %d statements\n", path, len(document.Statements))
	}
}

func fail(path string, err error) {
	fmt.Fprintf(os.Stderr, "%s: %v\n", path, err)
	os.Exit(1)
}
