
    elemental real(wp) function exact_exp(x)
        real(wp), intent(in) :: x
        real(wp) :: high, low
        integer :: k

        exact_exp = x
        if (x /= x) return
        call exp_in_two(min(max(x, -800.0_wp), 800.0_wp), high, low, k)
        exact_exp = scale(high + low, k)
    end function
