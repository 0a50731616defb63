# The stages of one data set: made in the folder of the results, by `make run` and `make predict` (Makefile), which put
# every option in the environment. Targets are relative names that this file alone makes up; what a user or a data set
# calls things is only ever a quoted variable of the shell ("$$DATA"), and cases are the programs' own business.

SHELL := /bin/bash
.SHELLFLAGS := -euf -o pipefail -c
.DELETE_ON_ERROR:
.SECONDARY:
MAKEFLAGS += --no-builtin-rules --no-print-directory
.PHONY: plan cases results predict FORCE

# Dependencies below give the order only: whether something is out of date, by content and options, the programs know.
FORCE:

# -- fingerprint and plan
fingerprint.toml: FORCE
	"$$BIN/nnu-fingerprint" --dataset "$$DATA" --out $@

plan.toml: fingerprint.toml FORCE
	settings=($$SET); "$$BIN/nnu-plan" --fingerprint $< --recipe="$$RECIPE" --folds="$$SPLIT_INTO" "$${settings[@]/#/--set=}" --out $@

plan: plan.toml

# What the plan has is known once it's there: `run` calls make again after it. Names that TOML would have to quote are none
# of nnu-plan's.
full := 3d_fullres
low := 3d_lowres
cascade := 3d_cascade_fullres
planned = $(shell sed -n 's/^\[configurations\.\([A-Za-z0-9_-]*\)\]$$/\1/p' plan.toml 2>/dev/null)
every_fold := $(shell seq 0 $$(($$(grep -c '^\[\[folds\]\]' splits.toml 2>/dev/null) - 1)))
chosen := $(if $(filter all,$(CONFIGURATIONS)),$(planned),$(CONFIGURATIONS))
chosen_folds := $(if $(filter all,$(FOLDS)),$(every_fold),$(FOLDS))

# The second stage of a cascade learns from what the first one predicts for cases that it hasn't seen: from all folds.
has_cascade := $(filter $(cascade),$(chosen))
trained := $(sort $(chosen) $(if $(has_cascade),$(low)))
preprocessed := $(sort $(patsubst $(cascade),$(full),$(trained)))
folds = $(if $(and $(has_cascade),$(filter $(low),$(1))),$(every_fold),$(chosen_folds))
cases_of = cases/$(patsubst $(cascade),$(full),$(1))

# -- the cases of each configuration, preprocessed by threads of one program
define newline


endef
cases:
	$(foreach c,$(preprocessed),"$$BIN/nnu-preprocess" --threads="$$JOBS" --dataset "$$DATA" --plan plan.toml \
	  --configuration $(c) --out cases/$(c)$(newline))

# -- one model per configuration and fold; its validation cases predicted and evaluated on the original grid
validation = $(foreach k,$(call folds,$(1)),validation/$(1)/fold_$(k))
evaluate = "$$BIN/nnu-postprocess" evaluate -q $(addprefix --predictions ,$(2)) --labels "$$DATA/labels$(3)" \
	  --plan plan.toml --images "$$DATA/images$(3)" $(4) --overlays $(1)/overlays --out $(1)/summary.toml
of_fold = --splits splits.toml --fold $(1)

# What the second stage needs of the first: its predictions of all folds.
first_stage = $(if $(filter $(cascade),$(1)),$(addsuffix /summary.toml,$(call validation,$(low))))
previous = $(if $(filter $(cascade),$(1)),$(patsubst %,--previous %/predictions,$(call validation,$(low))))
next_stage = $(if $(and $(has_cascade),$(filter $(low),$(1))),--next-stage $(call cases_of,$(cascade)))
# Pairs of configurations are compared by their averaged probabilities.
probabilities := $(if $(word 2,$(chosen)),--probabilities)
# Given as words for the program, such as --step 0.75.
train_flags := $$TRAIN_FLAGS
infer_flags := $$INFER_FLAGS --device="$$DEVICE"

define fold_rules
models/$(1)/fold_$(2)/model.toml: $(call first_stage,$(1)) FORCE
	"$$$$BIN/nnu-train" --cases $(call cases_of,$(1)) --plan plan.toml --configuration $(1) --fold $(2) --seed="$$$$SEED" \
	  $(call previous,$(1)) $$$${EPOCHS:+--epochs="$$$$EPOCHS"} $$$${ITERATIONS:+--iterations="$$$$ITERATIONS"} --device="$$$$DEVICE" \
	  --no-validation $$(train_flags) --out $$(@D)

validation/$(1)/fold_$(2)/summary.toml: models/$(1)/fold_$(2)/model.toml FORCE
	"$$$$BIN/nnu-infer" --model $$(<D) --cases $(call cases_of,$(1)) --validation $(call previous,$(1)) $(call next_stage,$(1)) \
	  $(probabilities) $$(infer_flags) --out $$(@D)/predictions
	$$(call evaluate,$$(@D),$$(@D)/predictions,Tr,$(call of_fold,$(2))) > /dev/null
endef
$(foreach c,$(trained),$(foreach k,$(call folds,$(c)),$(eval $(call fold_rules,$(c),$(k)))))

# -- the best configuration or pair of them, and its postprocessing; the test images, if there are any, predicted with it
has_tests := $(shell set +f; shopt -s nullglob; files=("$$DATA"/imagesTs/*.{nii,nii.gz,hdr,png}); echo "$${files[0]:+yes}")
has_test_labels := $(shell [ ! -e "$$DATA/labelsTs" ] || echo yes)
comma := ,
empty :=
joined = $(subst $(empty) $(empty),$(comma),$(addsuffix /predictions,$(foreach k,$(chosen_folds),validation/$(1)/fold_$(k))))

selection.toml: $(foreach c,$(trained),$(addsuffix /summary.toml,$(call validation,$(c)))) FORCE
	"$$BIN/nnu-postprocess" select --plan plan.toml --splits splits.toml --labels "$$DATA/labelsTr" \
	  --models models $(foreach c,$(chosen),--candidate $(c)=$(call joined,$(c))) --out $@

test: selection.toml FORCE
	"$$BIN/nnu-infer" --selection $< --images "$$DATA/imagesTs" $(infer_flags) --out $@/predictions
	$(if $(has_test_labels),$(call evaluate,$@,$@/predictions,Ts) > /dev/null)

predict:
	"$$BIN/nnu-infer" --selection selection.toml --images "$$IMAGES" $(infer_flags) --out "$$OUT"

# -- to look at: the network, layer by layer, and training patches before and after augmentation
define look_rules
look/$(1)/augmented.png: $(call first_stage,$(1)) FORCE
	@mkdir -p $$(@D)
	"$$$$BIN/nnu-net" describe -q --plan plan.toml --configuration $(1) > $$(@D)/network.txt
	"$$$$BIN/nnu-augment" --cases $(call cases_of,$(1)) --plan plan.toml --configuration $(1) \
	  --fold $(firstword $(chosen_folds)) $(call previous,$(1)) --seed="$$$$SEED" --preview $$@
endef
$(foreach c,$(trained),$(eval $(call look_rules,$(c))))

# The tables at the end come from summaries that are up to date by then.
show = echo; echo "$(1): $(2)"; echo; $(call evaluate,$(2),$(3),$(4),$(5)); echo "pictures: $(2)/overlays";
merged = $(call show,$(1)$(comma) cross-validation,validation/$(1),$(addsuffix /predictions,$(call validation,$(1))),Tr)
single = $(call show,$(1) fold $(2)$(comma) validation cases,validation/$(1)/fold_$(2),validation/$(1)/fold_$(2)/predictions,Tr,$(call of_fold,$(2)))

results: selection.toml $(if $(has_tests),test) $(foreach c,$(trained),look/$(c)/augmented.png)
	@$(foreach c,$(trained),$(if $(word 2,$(call folds,$(c))),$(call merged,$(c)),$(call single,$(c),$(call folds,$(c))))) true
	@$(if $(and $(has_tests),$(has_test_labels)),$(call show,test images,test,test/predictions,Ts)) true
	@printf '\nin %q: selection.toml; networks and augmented patches in look\n' "$$WORK"
