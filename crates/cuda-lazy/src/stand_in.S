// A function that finds the real one when it is first called.
//
// The arguments are whatever the real function takes, so none of the registers that can carry one (System V ABI: six
// integers, eight vectors, and al for the number of vectors) may be changed on the way. r11 is free for the way itself.

// `stand_in cuInit` defines cuInit and, for resolve.c, its `struct stand_in`: where to jump to, and the name. Each is in a
// section of its own: the linker drops what nobody calls.
.macro stand_in name
    .section .text.cuda_lazy.\name, "ax", @progbits
    .p2align 4
    .globl \name
    .type \name, @function
\name:
    jmp *.Lstand_in_\name(%rip)
.Lfirst_call_\name:
    leaq .Lstand_in_\name(%rip), %r11
    jmp resolve_and_jump
    .size \name, . - \name

    .section .data.rel.cuda_lazy.\name, "aw", @progbits
    .p2align 3
.Lstand_in_\name:
    .quad .Lfirst_call_\name
    .quad .Lname_\name

    .section .rodata.cuda_lazy.\name, "a", @progbits
.Lname_\name:
    .asciz "\name"
.endm

// Calls RESOLVE(r11), and jumps to what it returns with all registers as they were.
    .text
    .p2align 4
    .type resolve_and_jump, @function
resolve_and_jump:
    pushq %rdi
    pushq %rsi
    pushq %rdx
    pushq %rcx
    pushq %r8
    pushq %r9
    pushq %rax
    // With the return address, 64 bytes so far: the stack stays aligned to 16.
    subq $128, %rsp
    movdqu %xmm0, 0(%rsp)
    movdqu %xmm1, 16(%rsp)
    movdqu %xmm2, 32(%rsp)
    movdqu %xmm3, 48(%rsp)
    movdqu %xmm4, 64(%rsp)
    movdqu %xmm5, 80(%rsp)
    movdqu %xmm6, 96(%rsp)
    movdqu %xmm7, 112(%rsp)
    movq %r11, %rdi
    call RESOLVE
    movq %rax, %r11
    movdqu 0(%rsp), %xmm0
    movdqu 16(%rsp), %xmm1
    movdqu 32(%rsp), %xmm2
    movdqu 48(%rsp), %xmm3
    movdqu 64(%rsp), %xmm4
    movdqu 80(%rsp), %xmm5
    movdqu 96(%rsp), %xmm6
    movdqu 112(%rsp), %xmm7
    addq $128, %rsp
    popq %rax
    popq %r9
    popq %r8
    popq %rcx
    popq %rdx
    popq %rsi
    popq %rdi
    jmp *%r11
    .size resolve_and_jump, . - resolve_and_jump

    .section .note.GNU-stack, "", @progbits
