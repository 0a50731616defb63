# Sourced by the Makefile's recipes: relative paths are meant from where make was called, also with -C. Refuses what isn't
# a list of names where one is asked.
for option in DATA WORK BIN IMAGES OUT; do
  case ${!option} in '' | /*) ;; *) printf -v "$option" %s "$CALLED_FROM/${!option}" ;; esac
done
# A recipe's name, or a file.
case $RECIPE in
  /*) ;;
  *) [ ! -f "$CALLED_FROM/$RECIPE" ] || RECIPE=$CALLED_FROM/$RECIPE ;;
esac
for option in CONFIGURATIONS FOLDS; do
  case ${!option} in
    *[!A-Za-z0-9_\ -]*) echo "make: $option: expected names without signs, separated by blanks, or all" >&2; exit 2 ;;
  esac
done
