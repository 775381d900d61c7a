// The network that `tests/fixtures/chain.py` starts.
const node = {
  type: "edr-simulated",
  chainId: 31337,
  // Otherwise the node mines a transaction that reverts, and answers with an error.
  throwOnTransactionFailures: false,
};

export default { networks: { node } };
