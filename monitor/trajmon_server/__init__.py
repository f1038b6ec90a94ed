"""The monitor server: takes Gram rows, keeps maps, exports hallmarks, answers queries, advises."""
