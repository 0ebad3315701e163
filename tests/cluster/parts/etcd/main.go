// The etcd that Kubernetes' own modules name: Debian's is too old for watches that begin with a list.
package main

import (
	"os"

	"go.etcd.io/etcd/server/v3/etcdmain"
)

func main() { etcdmain.Main(os.Args) }
