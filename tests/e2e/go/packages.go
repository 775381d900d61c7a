// Package clients names what the guide of Go uses, so that it is compiled before the tests.
package clients

import (
	_ "github.com/ethereum/go-ethereum/common/hexutil"
	_ "github.com/ethereum/go-ethereum/crypto"
	_ "github.com/ethereum/go-ethereum/rpc"
)
