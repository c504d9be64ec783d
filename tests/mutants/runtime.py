"""Mutants of the runtime."""

from tests.mutants.mutant import in_file

_RUNTIME = "tests/runtime/test_runtime.py::test_"
_PROGRAM = "tests/runtime/test_program.py::test_"

_MEMORY = "tests/runtime/test_memory_estimate.py::test_"

MUTANTS = (
    *in_file(
        "fedrecon/runtime/memory.py",
        (
            "self.temporaries + self.outputs - self.aliased",
            "self.temporaries + self.outputs",
            _MEMORY + "arguments_outputs_and_temporaries_are_those_of_the_arrays",
        ),
        (
            "return self.arguments + self.added",
            "return self.added",
            _MEMORY + "arguments_outputs_and_temporaries_are_those_of_the_arrays",
        ),
        (
            "if count >= 9.95 * size",
            "if count >= size",
            _MEMORY + "readable_bytes_are_within_half_a_unit_of_the_last_digit",
        ),
    ),
    *in_file(
        "fedrecon/training/memory.py",
        (
            "self.working <= self.available",
            "self.working >= self.available",
            _MEMORY + "rounds_that_do_not_fit_say_what_to_reduce",
        ),
        (
            "memory.added * copies",
            "memory.total * copies",
            _MEMORY + "a_round_is_data_states_and_what_it_adds",
        ),
    ),
    *in_file(
        "fedrecon/runtime/workdir.py",
        (
            "        elif obstacle:",
            "        elif False:",
            _RUNTIME + "numbers_that_may_grow_continue_the_run_and_say_why_not",
        ),
        (
            'document | {"config": config}',
            "document",
            _RUNTIME + "numbers_that_may_grow_continue_the_run_and_say_why_not",
        ),
        ("fcntl.LOCK_EX | fcntl.LOCK_NB", "fcntl.LOCK_SH | fcntl.LOCK_NB", _RUNTIME + "workdir_is_exclusive"),
        (
            "if config.get(name) != found.get(name)",
            "if name in config and name not in found",
            _RUNTIME + "workdir_resumes_only_the_same_configuration",
        ),
    ),
    *in_file(
        "fedrecon/runtime/help.py",
        (
            'if "helpfull" in names:',
            "if False:",
            "tests/runtime/test_program.py::test_help_is_asked_for_in_absls_words_and_wraps_what_flags_say",
        ),
    ),
    *in_file(
        "fedrecon/runtime/checkpoint.py",
        # The oldest checkpoint is restored.
        (
            "sorted(self._manager.all_steps(), reverse=True)",
            "sorted(self._manager.all_steps())",
            _RUNTIME + "checkpoint_restores_values_dtypes_and_structure",
        ),
        # Shapes alone are compared.
        (
            "{getattr(leaf.dtype, 'name', leaf.dtype)} {tuple",
            "{tuple",
            _RUNTIME + "checkpoints_of_another_dtype_or_all_damaged_are_refused",
        ),
        (
            "self._manager.delete(other)",
            "pass",
            _RUNTIME + "a_damaged_newest_checkpoint_is_named_and_the_one_before_restored",
        ),
        (
            "if expected_leaf != found_leaf:",
            "if False:",
            _RUNTIME + "checkpoint_restores_values_dtypes_and_structure",
        ),
        (
            "_turn.acquire()",
            "pass",
            _RUNTIME + "checkpointers_of_several_threads_take_turns",
        ),
        (
            "self._open.remove(self)",
            "self._open.clear()",
            _RUNTIME + "checkpointers_at_once_leave_the_hooks_of_the_process",
        ),
    ),
    *in_file(
        "fedrecon/runtime/training.py",
        (
            "end + 19 * (end - start)",
            "end",
            _RUNTIME + "checkpoints_take_a_small_part_of_the_time",
        ),
        # A resume that leaves the records after the checkpoint.
        (
            "log.drop_after(stage, done)",
            "log.drop_after(stage, rounds)",
            _RUNTIME + "training_interrupted_in_a_round_equals_uninterrupted",
        ),
        (
            "permit(done, min(rounds_per_dispatch, rounds - done))",
            "permit(done, rounds_per_dispatch)",
            _RUNTIME + "training_interrupted_in_a_round_equals_uninterrupted",
        ),
        (
            "self._held = True",
            "pass",
            _RUNTIME + "an_interrupt_during_a_save_comes_after_it",
        ),
        (
            "done, state = restored if restored is not None else (0, state)",
            "done, state = (restored[0], state) if restored is not None else (0, state)",
            _RUNTIME + "training_interrupted_in_a_round_equals_uninterrupted",
        ),
    ),
    *in_file(
        "fedrecon/runtime/program.py",
        (
            'stream.reconfigure(errors="replace")',
            "pass",
            _PROGRAM + "consoles_of_any_encoding_show_every_line",
        ),
        # Any error of the library looks like one of the user.
        (
            "if isinstance(error, ArgumentError | WorkdirError",
            "if isinstance(error, ValueError | WorkdirError",
            _PROGRAM + "other_errors_keep_their_traceback",
        ),
        (
            "error.errno in _FULL",
            "not _FULL",
            _PROGRAM + "what_users_can_mend_ends_in_one_line",
        ),
        (
            "timers.append(timer)",
            "pass",
            _PROGRAM + "a_program_takes_its_hooks_and_pending_interrupts_along",
        ),
        (
            "sys.unraisablehook = hook",
            "pass",
            _PROGRAM + "a_program_takes_its_hooks_and_pending_interrupts_along",
        ),
    ),
    *in_file(
        "fedrecon/files.py",
        (
            "temporary.unlink(missing_ok=True)",
            "temporary.replace(path)",
            _RUNTIME + "write_atomically_leaves_the_old_file_on_failure",
        ),
    ),
    *in_file(
        "fedrecon/runtime/log.py",
        (
            "records.append(decode_numbers(record))",
            "records.append(record)",
            _RUNTIME + "what_is_not_finite_is_told_from_nothing_to_report",
        ),
        # A torn last line.
        (
            "if number == len(lines):",
            "if number == len(lines) + 1:",
            _RUNTIME + "a_torn_last_line_is_ignored_and_repaired",
        ),
        (
            "self._rewrite(read_log(self.path))",
            "read_log(self.path)",
            _RUNTIME + "a_torn_last_line_is_ignored_and_repaired",
        ),
        (
            'r.get("round", 0) <= round]',
            'r.get("round", 0) < round]',
            _RUNTIME + "drop_after_touches_one_stage",
        ),
        ('if r.get("stage") != stage or r.get', "if r.get", _RUNTIME + "drop_after_touches_one_stage"),
    ),
    *in_file(
        "fedrecon/runtime/watchdog.py",
        (
            "signal.signal(signal.SIGTERM, self._old_handler)",
            "pass",
            "tests/runtime/test_distributed.py::test_a_failure_of_communication_names_who_is_gone",
        ),
    ),
)
