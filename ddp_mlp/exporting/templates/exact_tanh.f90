
    elemental real(wp) function exact_tanh(x)
        real(wp), intent(in) :: x
        real(wp), parameter :: c(*) = [ &
@TANH@]
        real(wp) :: size_, square, high, low, power, whole, error, part
        integer :: k

        exact_tanh = x
        if (x /= x) return
        size_ = abs(x)
        if (size_ <= 0.55_wp) then
            square = times(size_, size_)
            exact_tanh = size_ + times(times(size_, square), polynomial(c, square))
        else
            call exp_in_two(min(2 * size_, 50.0_wp), high, low, k)
            power = scale(high, k)
            whole = power + 1
            error = ((power - whole) + 1) + scale(low, k)
            part = 2 / whole
            exact_tanh = 1 - part
            exact_tanh = exact_tanh + (((1 - exact_tanh) - part) + times(part, error / whole))
        end if
        exact_tanh = sign(exact_tanh, x)
    end function
