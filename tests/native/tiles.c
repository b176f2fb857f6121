/* AMX's tiles as another library on the same thread has them, and a system that refuses them. */
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

void shape(const unsigned char *shapes) { __asm__ volatile("ldtilecfg %0" : : "m"(*(const unsigned char(*)[64])shapes)); }
void release(void) { __asm__ volatile("tilerelease"); }
void look(unsigned char *shapes) { __asm__ volatile("sttilecfg %0" : "=m"(*(unsigned char(*)[64])shapes)); }

/* From now on arch_prctl(ARCH_REQ_XCOMP_PERM, ...) fails in this process. */
int refuse(void) {
    struct sock_filter rules[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_arch_prctl, 0, 3),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0x1023, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof rules / sizeof *rules, rules};
    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program);
}
