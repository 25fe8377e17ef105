# Adds up the lines `tally: SECTION tried N broken M` of a test run and prints a table. `sections` lists the sections,
# each as NAME=N with the least number of things that must be tried. The exit status is 1 if a section tried less, or if
# anything was broken.

{
  # The test runner may have begun the line.
  while (match($0, /tally: [a-z-]+ tried [0-9]+ broken [0-9]+/)) {
    split(substr($0, RSTART, RLENGTH), word, " ")
    $0 = substr($0, RSTART + RLENGTH)
    tried[word[2]] += word[4]
    broken[word[2]] += word[6]
  }
}

END {
  printf "%-32s %10s %10s\n", "SECTION", "TRIED", "BROKEN"
  count = split(sections, wanted, " ")
  for (at = 1; at <= count; at++) {
    split(wanted[at], pair, "=")
    name = pair[1]
    printf "%-32s %10d %10d", name, tried[name], broken[name]
    if (tried[name] < pair[2]) {
      printf "  (%d must be tried)", pair[2]
      wrong = 1
    }
    if (broken[name] > 0) wrong = 1
    printf "\n"
  }
  exit wrong
}
